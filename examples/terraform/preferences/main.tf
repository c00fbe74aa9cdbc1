# Workers on hosts of their own, as far as there are some, close to where their users are.

variable "near" {
  description = "A site or a region of the platform that the workers should be close to."
  type        = string
  default     = "eu-north"
}

variable "prefer" {
  description = "What is better among hosts that are equally close: price, spread or pack."
  type        = string
  default     = "spread"
}

resource "fairmazon_instance" "worker" {
  count  = 2
  name   = "worker-${count.index}"
  flavor = "small"
  image  = "debian-13"

  placement = {
    # A constraint: no worker is ever elsewhere.
    countries = ["DE", "FI", "NL"]
    # Preferences among the hosts that obey it.
    prefer = var.prefer
    near   = var.near
  }
}

output "sites" {
  description = "Where each worker is, and why."
  value = {
    for worker in fairmazon_instance.worker : worker.name => worker.placement_reason
  }
}
