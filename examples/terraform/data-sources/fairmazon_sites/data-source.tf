data "fairmazon_sites" "all" {}

output "countries" {
  value = distinct([for site in data.fairmazon_sites.all.sites : site.country])
}
