// Streaming Sampler: the newest chunk plays inside the node while the queue runs, then the clip; "Finish now" ends early.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement } from "./element.js";
import { allNodes, findNode, findNodeByLocator, onOutput, rootGraph } from "./graph.js";
import { hideHostPreview } from "./hidden_preview.js";
import { loopSetting, loops, toggleLoop } from "./live_loop.js";
import { elements } from "./live_elements.js";
import { endText, fileText, memoryText, notesOf, notesText, progressText, promptText, rememberedText } from "./live_text.js";
import { newestVideo } from "./newest_video.js";
import { goOnWith, keepsTakes, takes } from "./takes.js";
import { text } from "./texts.js";
import { announce } from "./watching.js";

const EVENT = "dummyforcing.chunk";
const NODE = "DummyForcingStreamingSampler";
const HEIGHT = 296;
const STRIP_HEIGHT = 64; // a line and a button

const views = () => allNodes().flatMap((node) => node.dummyForcingLive ?? []);

// A server that was started anew has forgotten its runs, and may have left a take behind.
async function reconnected() {
  await Promise.all(views().map((view) => view.stillRuns()));
  await tellOfTakes();
}

async function tellOfTakes() {
  if (views().length === 0) return;
  const { unfinished } = await takes();
  for (const view of views()) view.left(unfinished);
}

app.registerExtension({
  name: "dummyforcing.live",
  settings: [loopSetting((on) => views().forEach((view) => view.loop(on)))],
  setup() {
    announce();
    api.addEventListener("reconnected", reconnected);
    api.addEventListener(EVENT, ({ detail }) => {
      if (detail.graph && detail.graph !== rootGraph().id) return; // another tab's
      findNode(detail.node)?.dummyForcingLive?.show(detail);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    hideHostPreview(node);
    node.dummyForcingLive = liveView(node);
    onOutput(node, (output) => node.dummyForcingLive.finished(output));
  },
  afterConfigureGraph: tellOfTakes,
  // Another tab and back, undo and redo make every node anew.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      findNodeByLocator(locator)?.dummyForcingLive?.finished(output);
    }
  },
});

const preview = (node, chunk) => `/dummyforcing/preview?${new URLSearchParams({ node, chunk })}`;

function liveView(node) {
  const { box, stage, line, rows, clips, finish, loop, goOn } = elements();
  const open = addElement(node, "dummyforcing_live", box, () => (stage.hidden ? STRIP_HEIGHT : HEIGHT));
  const video = newestVideo(stage, text("video"), loops);
  let running = null; // the server's name for this node while it samples
  let reached = {}; // its last chunk

  finish.onclick = async () => {
    finish.disabled = true;
    const body = JSON.stringify({ node: running });
    try {
      const answer = await api.fetchApi("/dummyforcing/finish", { method: "POST", body });
      line.textContent = text(answer.ok ? "ends_after_chunk" : "run_is_over");
    } catch {
      line.textContent = text("no_answer");
      finish.disabled = false;
    }
  };
  loop.onclick = toggleLoop;

  // A line and a button, of a take that is unfinished.
  function strip(unfinished) {
    stage.hidden = !video.shows();
    goOn.hidden = false;
    line.textContent = text("take_left", { take: unfinished.name, chunks: unfinished.chunks });
    goOn.textContent = text("go_on_with_it");
    goOn.onclick = () => {
      goOnWith(node, unfinished.name);
      goOn.hidden = true;
      line.textContent = text("go_on_is_set");
    };
    open(true);
  }

  function unstrip() {
    goOn.hidden = true;
    if (!stage.hidden) return;
    open(false);
    stage.hidden = false;
  }

  function begin(name) {
    unstrip();
    running = name;
    finish.hidden = loop.hidden = finish.disabled = false;
    finish.textContent = text("finish");
    finish.title = text("finish_tooltip");
    loop.title = text("loop_tooltip");
    clips.replaceChildren();
    video.dim(); // the run before, until there is a chunk
    showLoop(loops());
    open(true);
  }

  function end(detail) {
    running = null;
    finish.hidden = loop.hidden = true;
    line.textContent = endText(detail, reached);
    if (detail.outcome === "done" || !reached.chunk) tell({});
  }

  function tell(detail) {
    [notesText, memoryText, rememberedText, promptText].forEach((words, index) => {
      const row = rows[index];
      row.textContent = row.title = words(detail);
      row.hidden = row.textContent === "";
    });
  }

  function showLoop(on) {
    loop.setAttribute("aria-pressed", String(on));
    loop.style.opacity = on ? 1 : 0.5;
  }

  const address = (file) => api.apiURL(`/view?${new URLSearchParams(file)}`);

  function showClip(file) {
    line.textContent = line.title = fileText(file);
    video.clip(address(file));
  }

  // One button per clip of a batch.
  function clipButtons(files) {
    const buttons = files.map((file, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = String(index + 1);
      button.setAttribute("aria-label", text("clip", { number: index + 1, count: files.length }));
      button.onclick = () => showClip(file);
      return button;
    });
    clips.replaceChildren(...(files.length > 1 ? buttons : []));
  }

  return {
    show(detail) {
      if (!detail.running) return end(detail);
      if (running === null || detail.chunk === 0) begin(detail.node);
      reached = detail;
      if (detail.decoding) finish.disabled = true; // there is nothing left to end
      if (detail.decoding || !finish.disabled) line.textContent = progressText(detail);
      if (detail.decoding) return; // no new preview
      tell(detail);
      if (detail.chunk === 0) return;
      video.chunk(api.apiURL(preview(detail.node, detail.chunk)));
    },
    // The clip of a run that has ended, or of one before where nothing had to be made again.
    finished(output) {
      if (running !== null) return;
      unstrip();
      const files = output?.images ?? [];
      line.textContent = "";
      tell({ notes: notesOf(output?.text?.[0]) });
      clipButtons(files);
      if (files.length) showClip(files[0]);
      else video.clear();
      open(files.length > 0);
    },
    // Asks a server that was away whether this node still samples: its last words may have been lost.
    async stillRuns() {
      if (running === null) return;
      const answer = await api.fetchApi(preview(running, reached.chunk)).catch(() => null);
      if (answer?.status === 404) end({ outcome: "failed" });
    },
    // The take that was left unfinished; null: there is none.
    left(unfinished) {
      if (running !== null) return;
      if (unfinished && keepsTakes(node)) strip(unfinished);
      else unstrip();
    },
    loop(on) {
      video.loop(on);
      showLoop(on);
    },
  };
}
