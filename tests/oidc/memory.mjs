// Where oidc-provider keeps what it issues. Its own store in memory forgets the oldest of a thousand entries.
const entries = new Map();
const grants = new Map();

// For how long what was spent is given out as if it were not: the reuse grace of providers like Okta.
let grace = 0;
export const graceOf = (seconds) => {
  grace = seconds;
};

export class Memory {
  constructor(model) {
    this.model = model;
  }

  key(id) {
    return `${this.model}:${id}`;
  }

  async upsert(id, payload) {
    const key = this.key(id);
    entries.set(key, payload);
    if (payload.uid) entries.set(`uid:${payload.uid}`, payload);
    if (payload.grantId) {
      const keys = grants.get(payload.grantId) ?? new Set();
      grants.set(payload.grantId, keys.add(key));
    }
  }

  async find(id) {
    const entry = entries.get(this.key(id));
    const isInGrace = entry?.consumed && Date.now() / 1000 - entry.consumed < grace;
    return isInGrace ? { ...entry, consumed: undefined } : entry;
  }

  async findByUid(uid) {
    return entries.get(`uid:${uid}`);
  }

  async findByUserCode() {
    return undefined;
  }

  async consume(id) {
    // The first time counts.
    entries.get(this.key(id)).consumed ??= Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    entries.delete(this.key(id));
  }

  // Of one kind at a time: each kind is revoked by a call of its own.
  async revokeByGrantId(grant) {
    for (const key of grants.get(grant) ?? []) {
      if (key.startsWith(`${this.model}:`)) entries.delete(key);
    }
  }
}

// How many of each kind there are.
export const held = () => {
  const counts = {};
  for (const key of entries.keys()) {
    const kind = key.slice(0, key.indexOf(':'));
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
};
