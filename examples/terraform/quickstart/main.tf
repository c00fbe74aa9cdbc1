# Three machines and two data volumes in two countries.

resource "fairmazon_volume" "data" {
  for_each = {
    de = "DE"
    nl = "NL"
  }

  name     = "data-${each.key}"
  size_gib = var.data_gib
  class    = "fast"

  placement = {
    countries = [each.value]
  }
}

resource "fairmazon_instance" "web" {
  for_each = {
    de = "DE"
    nl = "NL"
  }

  name   = "web-${each.key}"
  flavor = "small"
  image  = "debian-13"

  placement = {
    countries = [each.value]
  }

  boot_volume = {
    size_gib = 10
  }

  volumes = {
    data = { volume_id = fairmazon_volume.data[each.key].id }
  }

  labels = {
    role = "web"
  }
}

# The machine that must not be lost: the platform itself refuses to delete it
# until deletion_protection is switched off by an apply of its own.
resource "fairmazon_instance" "database" {
  name                = "database"
  flavor              = var.database_flavor
  image               = "debian-13"
  deletion_protection = var.protect_database

  placement = {
    countries = ["DE"]
  }

  boot_volume = {
    size_gib = 20
    class    = "fast"
  }

  labels = {
    role = "database"
  }
}
