-- Where the secret store issues a connection's credentials; NULL for those that lie in it.
ALTER TABLE connections ADD COLUMN lease_path TEXT;
