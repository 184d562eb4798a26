// node browse.mjs MODULES URL TENANTKEY OPERATORKEY: an operator's visit with Chromium; prints what it saw as JSON.
import { createRequire } from "node:module";

const [modules, url, tenant, operator] = process.argv.slice(2);
const { chromium } = createRequire(modules + "/")("playwright-core");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
const page = await browser.newPage();
const faults = [];
page.on("pageerror", (e) => faults.push(String(e)));
page.on("console", (m) => { if (m.type() === "error" && !/status of 40[13]/.test(m.text())) faults.push(m.text()); });
const asked = () => page.locator("#login").isVisible();
const texts = (css) => page.locator(css).allTextContents();
const login = async (key) => { await page.fill("#key", key); await page.click("#login button"); };

await page.goto(url);
await page.locator("#login").waitFor();
const seen = { stranger: await page.locator("main").isVisible() };
const refused = page.waitForResponse((r) => r.status() === 403);
await login(tenant);
await refused;
await page.locator("#login").waitFor();
seen.tenant = await page.locator("main").isVisible();
await login(operator);
await page.locator("#figures div").first().waitFor();
await page.waitForFunction(() => [...document.querySelectorAll("#figures strong")].some((e) => Number(e.textContent) > 0));
seen.asked = await asked();
seen.workers = await texts("#workers tr:first-child td");
seen.figures = await page.locator("#figures div").evaluateAll((all) => all.map((e) => e.firstChild.textContent));
seen.lines = await page.locator("#figures svg polyline").count();
seen.state = (await texts("#state"))[0];
await page.reload(); // the key is kept as long as the tab
await page.locator("#workers tr").first().waitFor();
await page.click("#leave");
await page.locator("#login").waitFor();
seen.left = await page.locator("main").isVisible();
seen.kept = await page.evaluate(() => sessionStorage.length + localStorage.length + document.cookie.length);
await browser.close();
console.log(JSON.stringify({ ...seen, faults }));
