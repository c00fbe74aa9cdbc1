resource "fairmazon_instance" "web" {
  name   = "web"
  flavor = "small"
  image  = "debian-13"
}

# Runs when it is asked for: terraform apply -invoke=action.fairmazon_migrate.web
action "fairmazon_migrate" "web" {
  config {
    instance_id = fairmazon_instance.web.id
  }
}
