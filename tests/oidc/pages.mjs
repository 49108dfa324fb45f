// The pages on which a person signs in and decides.
const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
const escaped = (text) => text.replace(/[&<>"]/g, (found) => ESCAPES[found]);

const page = (title, content) => `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>${title}</title>
<main><h1>${title}</h1>
${content}
</main></html>`;

export const loginPage = (uid, accounts) => {
  const button = ([id, { name }]) => `<button name="account" value="${id}">${escaped(name)}</button>`;
  return page('Choose an account', `<form method="post" action="/interaction/${uid}">
${Object.entries(accounts).map(button).join('\n')}
<button name="decision" value="cancel">Cancel</button>
</form>`);
};

export const consentPage = (uid, client, account, scopes) => {
  const box = (scope) =>
    `<p><label><input type="checkbox" name="scope" value="${escaped(scope)}" checked> ${escaped(scope)}</label></p>`;
  return page('Allow access', `<p>${escaped(client)} asks ${escaped(account.name)} (${escaped(account.email)}) for:</p>
<form method="post" action="/interaction/${uid}">
${scopes.map(box).join('\n')}
<button name="decision" value="allow">Allow</button>
<button name="decision" value="cancel">Cancel</button>
</form>`);
};
