resource "fairmazon_instance" "database" {
  name   = "database"
  flavor = "small"
  image  = "debian-13"
}

resource "fairmazon_snapshot" "before_upgrade" {
  name      = "database before the upgrade"
  volume_id = fairmazon_instance.database.boot_volume_id
}

# What the volume was then, to be attached beside it.
resource "fairmazon_volume" "restored" {
  name     = "database as it was"
  size_gib = fairmazon_snapshot.before_upgrade.size_gib
  source   = { snapshot_id = fairmazon_snapshot.before_upgrade.id }
}
