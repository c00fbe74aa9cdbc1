terraform {
  required_version = ">= 1.12"
  required_providers {
    fairmazon = {
      source  = "fairmazon/fairmazon"
      version = "~> 0.1"
    }
  }
}

# Endpoint and token come from FAIRMAZON_ENDPOINT and FAIRMAZON_TOKEN.
provider "fairmazon" {}
