resource "fairmazon_instance" "web" {
  name   = "web"
  flavor = "small"
  image  = "debian-13"
}

# Runs when it is asked for: terraform apply -invoke=action.fairmazon_reboot.web
action "fairmazon_reboot" "web" {
  config {
    instance_id = fairmazon_instance.web.id
  }
}
