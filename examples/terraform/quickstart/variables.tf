variable "data_gib" {
  description = "Size of each data volume in GiB; it grows without a restart."
  type        = number
  default     = 10
}

variable "database_flavor" {
  description = "Size of the database machine; changing it resizes the machine in place."
  type        = string
  default     = "medium"
}

variable "protect_database" {
  description = "Whether the platform refuses to delete the database machine."
  type        = bool
  default     = true
}
