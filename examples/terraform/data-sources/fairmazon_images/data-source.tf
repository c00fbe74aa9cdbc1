data "fairmazon_images" "all" {}

output "images" {
  value = [for image in data.fairmazon_images.all.images : image.name]
}
