data "fairmazon_instances" "web" {
  labels = {
    role = "web"
  }
}

output "web_addresses" {
  value = { for instance in data.fairmazon_instances.web.instances : instance.name => instance.addresses }
}
