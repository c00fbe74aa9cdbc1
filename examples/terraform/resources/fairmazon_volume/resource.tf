resource "fairmazon_volume" "example" {
  name     = "data"
  size_gib = 50
  class    = "fast"

  placement = {
    countries = ["DE"]
  }

  deletion_protection = true
}
