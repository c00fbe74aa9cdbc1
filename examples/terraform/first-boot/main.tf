# A machine that runs a script of yours at its first start, with a volume that outlives it.
# Both volumes are encrypted with keys that are made here, with your identity: see `key_file`.

resource "fairmazon_volume" "data" {
  name     = "data"
  size_gib = 1
}

resource "fairmazon_instance" "web" {
  name   = "web"
  flavor = "small"
  image  = "debian-13"

  user_data = <<-EOT
    #!/bin/sh
    echo "first boot of $(hostname), said by the machine itself"
  EOT

  volumes = {
    data = { volume_id = fairmazon_volume.data.id }
  }
}

output "instance" {
  description = "The machine's id."
  value       = fairmazon_instance.web.id
}
