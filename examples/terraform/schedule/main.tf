# Machines that run in working hours only: outside them they are stopped and cost no compute.

resource "fairmazon_instance" "office" {
  name   = "build-server"
  flavor = "large"
  image  = "ubuntu-24.04"

  boot_volume = {
    size_gib = 40
  }

  schedule = [
    {
      timezone = "Europe/Berlin"
      start    = "07:00"
      stop     = "19:00"
      days     = ["mon", "tue", "wed", "thu", "fri"]
    },
    {
      # The monthly report on Saturday morning.
      timezone = "Europe/Berlin"
      start    = "08:00"
      stop     = "12:00"
      days     = ["sat"]
    },
  ]
}

output "price_per_month" {
  description = "EUR for a month with these working hours."
  value       = fairmazon_instance.office.price_per_month
}

output "monthly_saving" {
  description = "EUR that the working hours save in a month."
  value       = fairmazon_instance.office.monthly_saving
}
