resource "fairmazon_volume" "example" {
  name     = "data"
  size_gib = 50
  class    = "fast"

  placement = {
    countries = ["DE"]
  }

  deletion_protection = true
}

# An operating system beside that of a machine, to look at or to mend one from.
resource "fairmazon_volume" "rescue" {
  name     = "rescue"
  size_gib = 10
  source   = { image = "debian-13" }
}
