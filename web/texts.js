// What we say on the page, in its language: locales/<language>/main.json, which the host hands out for every pack.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const languages = await api
  .fetchApi("/i18n")
  .then((answer) => answer.json())
  .catch(() => ({})); // without them a text is its key

// A text by its key, with {names} filled in.
export function text(key, values = {}) {
  const said = texts()[key] ?? languages.en?.dummyforcing?.[key] ?? key;
  return said.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

// What a choice of one of our lists is called; names of files and models are as they are.
export const choice = (value) => texts()[`choice_${value}`] ?? value;

function texts() {
  const locale = String(app.extensionManager?.setting.get("Comfy.Locale") ?? "en");
  const spoken = languages[locale] ?? (locale.startsWith("zh") ? languages.zh : languages.en);
  return spoken?.dummyforcing ?? {};
}
