data "fairmazon_images" "all" {}

# Which version of each image machines are made from.
output "images" {
  value = { for image in data.fairmazon_images.all.images : image.name => image.sha256 }
}
