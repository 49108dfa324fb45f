// A real Chromium for tests, driven by playwright-core: one browser, and a private context for each page. It takes a line of JSON
// on standard input and answers with one, and ends with its input.
//
//   node browser.mjs PATH-OF-PLAYWRIGHT-CORE PATH-OF-CHROMIUM
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { chromium } = (await import(pathToFileURL(process.argv[2]).href)).default;
// As root, and in containers, Chromium has no sandbox of its own.
const browser = await chromium.launch({ executablePath: process.argv[3], args: ['--no-sandbox'] });
const PATIENCE = 15_000;

const pages = new Map();
let last = 0;

const pageOf = ({ page }) => pages.get(page);

// What a person sees, and what the browser complained of.
const seen = async ({ page, complaints }) => ({
  url: page.url(),
  title: await page.title(),
  h1: (await page.locator('h1').allInnerTexts()).join(' '),
  text: await page.locator('body').innerText(),
  complaints,
});

const ACTS = {
  async page() {
    const context = await browser.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => {
      // A status is an answer, and no fault of the page.
      const isStatus = message.text().startsWith('Failed to load resource: the server responded with a status');
      if (message.type() === 'error' && !isStatus) complaints.push(message.text());
    });
    last += 1;
    pages.set(last, { context, page, complaints });
    return { page: last };
  },
  async open(asked) {
    const held = pageOf(asked);
    await held.page.goto(asked.url);
    return seen(held);
  },
  // By its role and its name, as assistive technology has them; it leads to another page, and past one that only leads on.
  async click(asked) {
    const held = pageOf(asked);
    const target = held.page.getByRole(asked.role, { name: asked.name, exact: true });
    await Promise.all([held.page.waitForNavigation(), target.click()]);
    await held.page.locator('meta[http-equiv="refresh"]').waitFor({ state: 'detached' });
    await held.page.waitForLoadState();
    return seen(held);
  },
  async untick(asked) {
    const held = pageOf(asked);
    await held.page.getByRole('checkbox', { name: asked.name, exact: true }).uncheck();
    return seen(held);
  },
  async close(asked) {
    await pageOf(asked).context.close();
    pages.delete(asked.page);
    return {};
  },
};

const lines = createInterface({ input: process.stdin });
for await (const line of lines) {
  const asked = JSON.parse(line);
  try {
    console.log(JSON.stringify(await ACTS[asked.act](asked)));
  } catch (error) {
    console.log(JSON.stringify({ error: error.message }));
  }
}
await browser.close();
