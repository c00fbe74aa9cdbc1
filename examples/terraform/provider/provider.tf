terraform {
  required_providers {
    fairmazon = {
      source = "fairmazon/fairmazon"
    }
  }
}

# Everything can come from the environment instead: FAIRMAZON_ENDPOINT, FAIRMAZON_TOKEN,
# FAIRMAZON_CA_CERTIFICATE, ... What is written here wins.
provider "fairmazon" {
  endpoint = "https://broker.example.com:8443"
  token    = var.fairmazon_token

  # The identity that opens your volumes, made once by `fairmazon key init`: keep a copy.
  key_file = pathexpand("~/.config/fairmazon/key")

  default_labels = {
    team = "infrastructure"
  }

  # Refuses a plan that would cost more than this in an hour, in EUR.
  max_price_per_hour = "2.5"
}

variable "fairmazon_token" {
  type      = string
  sensitive = true
}
