# From Frankfurt to Amsterdam, along the surface of the earth.
output "kilometres" {
  value = provider::fairmazon::distance_km(50.11, 8.68, 52.37, 4.90)
}
