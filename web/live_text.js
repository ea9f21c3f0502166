// What stands under the live view.
import { text } from "./texts.js";

const NOTE = "note: ";

// While it runs. Times come in seconds.
export function progressText({ chunk, chunks, fps, seconds_left, decoding }) {
  if (decoding) return text("decoding", { chunk: decoding, chunks });
  if (chunk === 0) return text(chunks === 1 ? "starting_one" : "starting", { chunks });
  const left = seconds_left === null ? [] : [text("left", { time: clock(seconds_left) })];
  return [text("chunk", { chunk, chunks }), `${fps} FPS`, ...left].join(" · ");
}

// Where the clip is kept, what the heads remember by, and what that takes. Sizes come in MiB.
export function memoryText({ memory, kv_mib, device_mib, take }) {
  const parts = take ? [text("take", { take })] : [];
  if (memory) parts.push(text("memory", { memory }));
  if (kv_mib !== undefined) parts.push(`K/V ${gib(kv_mib)}`);
  if (device_mib) parts.push(text("vram", { size: gib(device_mib) }));
  return parts.join(" · ");
}

// The stretches of the clip in the heads' bank.
export function rememberedText({ remembers = [] }) {
  const times = remembers.map((stretch) => stretch.map(tenths).join("-")).join(", ");
  return times && text("remembers", { times });
}

// The prompt that the newest chunk was made with.
export const promptText = ({ prompt }) => (prompt ? text("prompt", { prompt }) : "");

// What the user should know of this clip.
export const notesText = ({ notes = [] }) => notes.join(" · ");

// The notes of a report.
export function notesOf(report = "") {
  const rows = report.split("\n").filter((row) => row.startsWith(NOTE));
  return rows.map((row) => row.slice(NOTE.length));
}

// Where a clip lies in the output folder.
export const fileText = ({ subfolder, filename }) => [subfolder, filename].filter(Boolean).join("/");

// After it. `part`: where a playable part of the clip stays in the output folder, if there is one.
export function endText({ outcome, part }, { chunk = 0, chunks = 0 }) {
  if (outcome === "done") return text("done");
  return text(`${outcome}${part ? "_kept" : ""}`, { chunk, chunks, part });
}

function gib(mib) {
  if (mib >= 1024) return `${(mib / 1024).toFixed(1)} GiB`;
  return `${mib < 10 ? mib.toFixed(1) : Math.round(mib)} MiB`;
}

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// 0:01.5, for stretches of less than a second.
function tenths(seconds) {
  const all = Math.round(10 * seconds);
  return `${clock(Math.floor(all / 10))}.${all % 10}`;
}
