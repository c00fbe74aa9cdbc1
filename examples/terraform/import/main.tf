# Takes a machine that exists already under Terraform's care. Nothing about it changes.

variable "instance_id" {
  description = "The id of the machine, as `terraform query` or the other configuration shows it."
  type        = string
}

import {
  to = fairmazon_instance.adopted
  identity = {
    id = var.instance_id
  }
}

resource "fairmazon_instance" "adopted" {
  name   = "adopted"
  flavor = "small"
  image  = "debian-13"

  boot_volume = {
    size_gib = 10
  }

  labels = {
    origin = "made elsewhere"
  }
}
