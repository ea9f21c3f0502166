// The report is a table: in Nodes 2.0 a Preview as Text would wrap its lines, and set them in letters of unequal width.
import { app } from "../../scripts/app.js";
import { allNodes } from "./graph.js";

const NODE = "DummyForcingStreamingSampler";
const VIEWER = "PreviewAny";

const style = document.head.appendChild(document.createElement("style"));

// Nodes that show one of our reports, of the graph that is open now.
function viewers() {
  return allNodes().filter((node) => {
    if (node.comfyClass !== VIEWER) return false;
    const source = node.getInputNode?.(0);
    return source?.comfyClass === NODE && source.outputs[node.getInputLink(0).origin_slot]?.name === "report";
  });
}

function update() {
  style.textContent = viewers()
    .map((node) => `[data-node-id="${node.id}"] textarea{white-space:pre;overflow-x:auto;font-family:monospace}`)
    .join("\n");
}

app.registerExtension({
  name: "dummyforcing.report",
  afterConfigureGraph: update,
  onNodeOutputsUpdated: update,
  setup: () => app.api.addEventListener("execution_start", update),
});
