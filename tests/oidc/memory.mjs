// Where oidc-provider keeps what it issues. Its own store in memory forgets the oldest of a thousand entries.
const entries = new Map();
const grants = new Map();

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
    return entries.get(this.key(id));
  }

  async findByUid(uid) {
    return entries.get(`uid:${uid}`);
  }

  async findByUserCode() {
    return undefined;
  }

  async consume(id) {
    entries.get(this.key(id)).consumed = Math.floor(Date.now() / 1000);
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
