# A token that exists while Terraform runs and is revoked at the end: it is in no state and no plan.
ephemeral "fairmazon_token" "run" {
  lifetime_seconds = 600
}

# A second configuration of the provider that works with it.
provider "fairmazon" {
  alias = "short_lived"
  token = ephemeral.fairmazon_token.run.token
}
