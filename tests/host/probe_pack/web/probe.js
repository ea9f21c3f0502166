// Shows the newest file of a Harness Preview node inside it: on the classic canvas, in Nodes 2.0, inside subgraphs.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const EVENT = "harness.probe";
const NODE = "HarnessPreview";
const MARGIN = 10;
const MIN_HEIGHT = 120;

app.registerExtension({
  name: "harness.probe",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => findNode(detail.node)?.harnessProbe?.show(detail));
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) addView(node);
  },
  // Another tab, undo and redo make every node anew; the page then gives back what each node had sent as ui output.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      if (output?.probe) findNodeByLocator(locator)?.harnessProbe?.show({ images: output.probe });
    }
  },
});

// Inside a subgraph the server names a node by its path: "12:5" is node 5 of subgraph node 12.
function findNode(executionId) {
  let graph = app.rootGraph ?? app.graph;
  const path = String(executionId).split(":");
  const last = path.pop();
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  return graph?.getNodeById(last);
}

// The page's own key of an output: "5", or "<id of the subgraph's definition>:5".
function findNodeByLocator(locator) {
  const [last, subgraph] = locator.split(":").reverse();
  return (subgraph ? app.rootGraph.subgraphs.get(subgraph) : app.rootGraph)?.getNodeById(last);
}

function addWidget(node, box) {
  const widget = node.addDOMWidget("harness_probe", "preview", box, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => MIN_HEIGHT + 2 * MARGIN,
  });
  widget.serialize = false; // not in the saved workflow
}

// Older pages show a "preview" widget on the subgraph node too; on newer ones that node gets one of its own.
function addOutside(node, box) {
  for (const outer of app.rootGraph._nodes) {
    const takesWidgets = outer.addCustomWidget !== LGraphNode.prototype.addCustomWidget;
    if (!outer.subgraph || outer.subgraph !== node.graph || !takesWidgets) continue;
    if (!outer.widgets.some((widget) => widget.name === "harness_probe")) addWidget(outer, box);
    void outer.widgets; // Nodes 2.0 sees a new one when it is asked
  }
}

function addView(node) {
  const box = document.createElement("div");
  box.className = "harness-probe";
  box.style.cssText = `display:flex;flex-direction:column;min-height:${MIN_HEIGHT}px;background:#111;color:#ccc`;
  const stage = document.createElement("div");
  stage.style.cssText = "position:relative;flex:1;min-height:0;overflow:hidden";
  const label = document.createElement("div");
  label.textContent = "waiting";
  box.append(stage, label);

  addWidget(node, box);

  // A video that leaves the document pauses, as it does when its node is collapsed in Nodes 2.0.
  const observer = new ResizeObserver(() => stage.offsetHeight && stage.querySelector("video")?.play().catch(() => {}));
  observer.observe(stage);
  const { onRemoved } = node;
  node.onRemoved = function (...args) {
    observer.disconnect();
    return onRemoved?.apply(this, args);
  };

  node.harnessProbe = {
    box,
    label,
    show({ step, steps, images }) {
      addOutside(node, box);
      label.textContent = step ? `step ${step} of ${steps}` : "done before";
      const file = images[0];
      const tag = file.filename.endsWith(".mp4") ? "video" : "img";
      let media = stage.querySelector(tag);
      if (!media) {
        media = document.createElement(tag);
        // Out of the flow, so that a large picture does not stretch the node.
        media.style.cssText = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain";
        if (tag === "video") Object.assign(media, { muted: true, loop: true, autoplay: true, playsInline: true });
        stage.replaceChildren(media);
      }
      media.src = api.apiURL(`/view?${new URLSearchParams(file)}`);
    },
  };
}
