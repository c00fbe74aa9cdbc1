# A change that a second person reads before it is applied: plan, look at the cost, apply the
# very plan that was read. The script beside this file is the guard.

variable "machines" {
  description = "How many machines are wanted."
  type        = number
  default     = 2
}

resource "fairmazon_instance" "worker" {
  count = var.machines

  name   = "worker-${count.index}"
  flavor = "small"
  image  = "debian-13"

  boot_volume = {
    size_gib = 10
  }
}
