resource "fairmazon_volume" "data" {
  name     = "data"
  size_gib = 10
}

resource "fairmazon_instance" "web" {
  name   = "web"
  flavor = "small"
  image  = "debian-13"

  volumes = {
    data = { volume_id = fairmazon_volume.data.id }
  }

  # Another image, flavor or user data meets the data only when what it was is kept.
  lifecycle {
    action_trigger {
      events  = [before_update]
      actions = [action.fairmazon_snapshot.web]
    }
  }
}

# Runs when it is asked for, too: terraform apply -invoke=action.fairmazon_snapshot.web
action "fairmazon_snapshot" "web" {
  config {
    volume_id = fairmazon_volume.data.id
    name      = "before-a-change"
    labels    = { of = "web" }
  }
}
