resource "fairmazon_placement_group" "apart" {
  name = "databases"
}

# Two machines that never share a host.
resource "fairmazon_instance" "database" {
  count = 2

  name   = "database-${count.index}"
  flavor = "small"
  image  = "debian-13"

  boot_volume = {
    size_gib = 10
  }

  placement = {
    not_with = [fairmazon_placement_group.apart.id]
  }
}
