# For `terraform query`; add -generate-config-out=found.tf to take them under Terraform's care.
list "fairmazon_snapshot" "all" {
  provider = fairmazon
}
