# A cluster from one map: each member on a host of its own.

variable "members" {
  description = "The members by name; add or remove one and no other is touched."
  type = map(object({
    flavor   = optional(string, "small")
    data_gib = optional(number, 20)
  }))
  default = {
    a = {}
    b = {}
    c = { flavor = "medium" }
  }
}

resource "fairmazon_placement_group" "members" {
  name = "cluster-members"
}

resource "fairmazon_volume" "data" {
  for_each = var.members

  name     = "cluster-${each.key}-data"
  size_gib = each.value.data_gib

  labels = {
    cluster = "example"
    member  = each.key
  }
}

resource "fairmazon_instance" "member" {
  for_each = var.members

  name            = "cluster-${each.key}"
  flavor          = each.value.flavor
  flavor_fallback = ["medium", "large"]
  image           = "debian-13"

  # A member of the group is never on a host with another one.
  placement = {
    not_with = [fairmazon_placement_group.members.id]
  }

  boot_volume = {
    size_gib = 10
  }

  volumes = {
    data = { volume_id = fairmazon_volume.data[each.key].id }
  }

  user_data = <<-EOT
    #cloud-config
    hostname: cluster-${each.key}
  EOT

  labels = {
    cluster = "example"
    member  = each.key
  }
}

output "addresses" {
  description = "The addresses of each member."
  value       = { for key, member in fairmazon_instance.member : key => member.addresses }
}

output "price_per_month" {
  description = "EUR for a month of 730 hours, without the data volumes."
  value       = sum([for member in fairmazon_instance.member : tonumber(member.price_per_month)])
}
