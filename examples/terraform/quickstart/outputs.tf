output "price_per_hour" {
  description = "What each machine costs, in EUR for an hour: known before anything is created."
  value = merge(
    { for key, machine in fairmazon_instance.web : machine.name => machine.price_per_hour },
    { (fairmazon_instance.database.name) = fairmazon_instance.database.price_per_hour },
  )
}

output "price_per_month" {
  description = "What everything together costs, in EUR for a month of 730 hours."
  value = sum(concat(
    [for machine in fairmazon_instance.web : tonumber(machine.price_per_month)],
    [for volume in fairmazon_volume.data : tonumber(volume.price_per_month)],
    [tonumber(fairmazon_instance.database.price_per_month)],
  ))
}

output "where" {
  description = "Where each machine runs, and why there."
  value = {
    for machine in concat(values(fairmazon_instance.web), [fairmazon_instance.database]) :
    machine.name => "${machine.country}, ${machine.placement_reason}"
  }
}
