# The two sites that are nearest to Berlin.
data "fairmazon_sites" "all" {}

output "nearest" {
  value = slice(provider::fairmazon::nearest(52.52, 13.40, {
    for site in data.fairmazon_sites.all.sites :
    site.name => { latitude = site.latitude, longitude = site.longitude }
  }), 0, 2)
}
