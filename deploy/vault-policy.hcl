# What credway needs of Vault or OpenBao, and no more. `secret` is the KV version 2 mount, `credway` the prefix:
#   bao policy write credway deploy/vault-policy.hcl
# A sidecar that only resolves can do with "read" on the data; writing is for the control plane and `credway apply`.

path "secret/data/credway/*" {
  capabilities = ["create", "read", "update"]
}

path "secret/metadata/credway/*" {
  capabilities = ["read", "delete"]
}

# The old version of a credential that was rotated, once its time is over.
path "secret/destroy/credway/*" {
  capabilities = ["update"]
}

# To see at start that the mount is version 2.
path "sys/internal/ui/mounts/secret" {
  capabilities = ["read"]
}

# Its own token: is it alive, make it last, give it back. The `default` policy grants these too.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# Credentials that Vault issues itself, for connections with a lease_path: name the roles that credway may lease from. Whoever
# may write manifests may wire any of them, so this is the list of what they can reach.
path "database/creds/credway-*" {
  capabilities = ["read"]
}

path "sys/leases/renew" {
  capabilities = ["update"]
}

# To give them back before they end: when a connection is deleted, and at shutdown.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
