# What an id says by itself, without a call to the platform.
output "made_at" {
  value = provider::fairmazon::parse_id("ins-01jd0000000000000000000000").created_at
}
