data "fairmazon_flavors" "all" {}

output "cheapest_with_two_vcpus" {
  value = [for flavor in data.fairmazon_flavors.all.flavors : flavor.name if flavor.vcpus >= 2][0]
}
