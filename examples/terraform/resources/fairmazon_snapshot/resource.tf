resource "fairmazon_instance" "shop" {
  name   = "shop"
  flavor = "small"
  image  = "debian-13"
}

resource "fairmazon_snapshot" "before_upgrade" {
  name      = "shop before the upgrade"
  volume_id = fairmazon_instance.shop.boot_volume_id
}

# What the volume was then, to be attached beside it.
resource "fairmazon_volume" "restored" {
  name     = "shop as it was"
  size_gib = fairmazon_snapshot.before_upgrade.size_gib
  source   = { snapshot_id = fairmazon_snapshot.before_upgrade.id }
}
