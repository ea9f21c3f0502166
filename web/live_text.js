// The line under the live view.

// While it runs. Sizes come in MiB, times in seconds.
export function progressText({ chunk, chunks, fps, seconds_left, kv_mib, device_mib, decoding, notes = [] }) {
  if (decoding) return `decoding chunk ${decoding} of ${chunks}`;
  if (chunk === 0) return [`starting, ${chunks} ${chunks === 1 ? "chunk" : "chunks"}`, ...notes].join(" · ");
  const memory = device_mib ? `${gib(device_mib)} of VRAM, K/V ${gib(kv_mib)}` : `K/V ${gib(kv_mib)}`;
  const left = seconds_left === null ? "" : ` · ${clock(seconds_left)} left`;
  return `chunk ${chunk} of ${chunks} · ${fps} FPS${left} · ${memory}`;
}

// After it. `kept`: whether a playable part of the clip is on disk.
export function endText({ outcome, kept }, { chunk = 0, chunks = 0 }) {
  if (outcome === "done") return "done";
  const where = `${outcome} after ${chunk} of ${chunks} chunks`;
  return kept ? `${where}; the part that is done stays in the output folder` : where;
}

const gib = (mib) => (mib < 1024 ? `${Math.round(mib)} MiB` : `${(mib / 1024).toFixed(1)} GiB`);

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
