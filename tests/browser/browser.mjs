// A real Chromium for tests, driven by playwright-core: one browser, and a private context for each page. It takes a line of JSON
// on standard input and answers with one, and ends with its input.
//
//   node browser.mjs PATH-OF-PLAYWRIGHT-CORE PATH-OF-CHROMIUM PATH-OF-AXE
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const { chromium } = (await import(pathToFileURL(process.argv[2]).href)).default;
// As root, and in containers, Chromium has no sandbox of its own.
const browser = await chromium.launch({ executablePath: process.argv[3], args: ['--no-sandbox'] });
const PATIENCE = 15_000;
const AXE = readFileSync(process.argv[4], 'utf8');
// WCAG 1.4.10: what is 1280 wide at 400 %.
const NARROW = 320;

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

// What an act leads to: another page, and past one that only leads on.
const led = async (held, act) => {
  await Promise.all([held.page.waitForNavigation(), act()]);
  await held.page.locator('meta[http-equiv="refresh"]').waitFor({ state: 'detached' });
  await held.page.waitForLoadState();
  return seen(held);
};

// As people call what has the focus.
const focused = (page) => page.evaluate(() => document.activeElement?.textContent.trim() ?? '');

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
  // By its role and its name, as assistive technology has them.
  async click(asked) {
    const held = pageOf(asked);
    return led(held, () => held.page.getByRole(asked.role, { name: asked.name, exact: true }).click());
  },
  // By Tab and Enter alone.
  async key(asked) {
    const held = pageOf(asked);
    for (let steps = 0; (await focused(held.page)) !== asked.name; steps += 1) {
      if (steps > 20) throw new Error(`no Tab leads to ${asked.name}`);
      await held.page.keyboard.press('Tab');
    }
    return led(held, () => held.page.keyboard.press('Enter'));
  },
  // What is wrong with the page for people who see little, or have a small screen.
  async faults(asked) {
    const { page } = pageOf(asked);
    const faults = [];
    const size = page.viewportSize();
    await page.setViewportSize({ width: NARROW, height: 640 });
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    if (width > NARROW) faults.push(`it is ${width} wide on a screen of ${NARROW}`);
    await page.evaluate(AXE);
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme });
      const { violations } = await page.evaluate(() => axe.run());
      const told = ({ id, nodes }) => `${colorScheme}: ${id}: ${nodes.map((node) => node.html).join(' ')}`;
      faults.push(...violations.map(told));
    }
    await page.setViewportSize(size);
    return { faults };
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
