resource "fairmazon_instance" "example" {
  name   = "web"
  flavor = "small"
  image  = "debian-13"

  boot_volume = {
    size_gib = 10
  }

  placement = {
    countries = ["DE", "NL"]
  }

  ssh_keys = [
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJzr5Gk0example0key0not0in0use0anywhere0 someone@example.com",
  ]

  user_data = <<-EOT
    #cloud-config
    packages: [nginx]
  EOT

  labels = {
    role = "web"
  }

  timeouts = {
    create = "15m"
  }
}
