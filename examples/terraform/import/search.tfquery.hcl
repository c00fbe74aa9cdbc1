# `terraform query` lists the account's machines; with -generate-config-out it writes their
# configuration and import blocks.
list "fairmazon_instance" "all" {
  provider = fairmazon
}
