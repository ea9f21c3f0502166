// Streaming Sampler: the newest chunk plays inside the node while the queue runs, and "Finish now" ends after it.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { addElement, allNodes, findNode, findNodeByLocator, onOutput, rootGraph } from "./graph.js";
import { endText, progressText } from "./live_text.js";
import { newestVideo } from "./newest_video.js";

const EVENT = "dummyforcing.chunk";
const NODE = "DummyForcingStreamingSampler";
const HEIGHT = 220;

app.registerExtension({
  name: "dummyforcing.live",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => {
      if (detail.graph && detail.graph !== rootGraph().id) return; // another tab's
      findNode(detail.node)?.dummyForcingLive?.show(detail);
    });
    app.canvas.canvas.addEventListener("litegraph:set-graph", () => {
      for (const node of allNodes()) node.dummyForcingLive?.place();
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    node.dummyForcingLive = liveView(node);
    onOutput(node, (output) => node.dummyForcingLive.finished(output));
  },
  // Another tab and back, undo and redo make every node anew.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      findNodeByLocator(locator)?.dummyForcingLive?.finished(output);
    }
  },
});

function liveView(node) {
  const { box, video, line, button } = elements();
  const open = addElement(node, "dummyforcing_live", box, () => HEIGHT);
  const play = newestVideo(video);
  let running = null; // the server's name for this node while it samples
  let reached = {}; // its last chunk
  let final = false; // whether the finished clip is what is shown

  button.onclick = async () => {
    button.disabled = true;
    const body = JSON.stringify({ node: running });
    try {
      const answer = await api.fetchApi("/dummyforcing/finish", { method: "POST", body });
      line.textContent = answer.ok ? "ends after this chunk" : "this run is over";
    } catch {
      line.textContent = "the server does not answer";
      button.disabled = false;
    }
  };

  function begin(name) {
    running = name;
    final = video.controls = false;
    button.hidden = button.disabled = false;
    play(null); // the run before
    open(true);
  }

  function end(detail) {
    running = null;
    button.hidden = true;
    line.textContent = endText(detail, reached);
  }

  return {
    show(detail) {
      if (!detail.running) return end(detail);
      if (running === null || detail.chunk === 0) begin(detail.node);
      reached = detail;
      if (detail.decoding) button.disabled = true; // there is nothing left to end
      if (detail.decoding || !button.disabled) line.textContent = progressText(detail);
      if (detail.decoding) return; // no new preview
      const source = `/dummyforcing/preview?${new URLSearchParams({ node: detail.node, chunk: detail.chunk })}`;
      if (detail.chunk > 0) play(api.apiURL(source));
      else api.fetchApi(source); // tells the server that a page watches
    },
    // The node shows its finished video itself, but only where it is: a subgraph would show nothing outside.
    finished(output) {
      if (running !== null) return;
      const file = node.graph === rootGraph() ? undefined : output?.images?.[0];
      final = file !== undefined;
      video.controls = final;
      line.textContent = "";
      play(final ? api.apiURL(`/view?${new URLSearchParams(file)}`) : null);
      if (final) this.place();
      else open(false);
    },
    // Inside the subgraph the node's own video is enough.
    place() {
      if (final) open(node.graph !== app.canvas.graph);
    },
  };
}

function elements() {
  const box = document.createElement("div");
  box.className = "dummyforcing-live";
  const stage = document.createElement("div");
  stage.style.cssText = "position:relative;flex:1;min-height:140px;background:#111;overflow:hidden;border-radius:4px";
  const video = document.createElement("video");
  // Out of the flow, so that a large picture does not stretch the node.
  video.style.cssText = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain";
  video.setAttribute("aria-label", "The newest chunk of the clip");
  stage.append(video);
  const line = document.createElement("div");
  line.setAttribute("aria-live", "polite");
  const button = document.createElement("button");
  button.type = "button";
  button.hidden = true;
  button.textContent = "Finish now";
  button.title = "Ends after the current chunk; everything made so far goes on to the next nodes.";
  button.style.cssText =
    "padding:4px 8px;cursor:pointer;border:1px solid var(--border-color,#555);border-radius:4px;" +
    "background:var(--comfy-input-bg,#222);color:inherit";
  box.append(stage, line, button);
  return { box, video, line, button };
}
