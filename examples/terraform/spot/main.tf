# Workers on spot capacity, and a machine beside them that gets the room of one when no host has
# any.

variable "workers" {
  description = "How many workers there are."
  type        = number
  default     = 2
}

variable "flavor" {
  description = "The size of each machine."
  type        = string
  default     = "medium"
}

variable "on_interrupt" {
  description = "What an interruption does: stop or delete."
  type        = string
  default     = "stop"
}

variable "urgent" {
  description = "Whether there is a machine that is not spot."
  type        = bool
  default     = false
}

resource "fairmazon_instance" "worker" {
  count  = var.workers
  name   = "worker-${count.index}"
  flavor = var.flavor
  image  = "debian-13"

  placement = {
    countries = ["FI"]
  }

  spot = {
    max_price_per_hour = "0.10"
    notice_seconds     = 60
    on_interrupt       = var.on_interrupt
  }
}

resource "fairmazon_instance" "urgent" {
  count  = var.urgent ? 1 : 0
  name   = "urgent"
  flavor = var.flavor
  image  = "debian-13"

  placement = {
    countries = ["FI"]
  }
}

output "interrupted" {
  description = "The workers whose capacity was taken back, with the end of their notice."
  value = {
    for worker in fairmazon_instance.worker : worker.name => worker.interruption_at
    if worker.interruption_at != null
  }
}
