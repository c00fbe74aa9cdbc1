# Refuses a wrong id where it is given, before anything is asked of the platform.
variable "volume_id" {
  type    = string
  default = "vol-01jd0000000000000000000000"

  validation {
    condition     = provider::fairmazon::is_id(var.volume_id, "volume")
    error_message = "volume_id is the id of a volume: vol- and 26 characters."
  }
}
