// Frame rates: the page takes the digits of a widget from its step, so that 23.976 can be typed; arrows go by whole ones.
import { app } from "../../scripts/app.js";

const NODES = ["DummyForcingStreamingSampler", "DummyForcingStreamingDecode"];

app.registerExtension({
  name: "dummyforcing.rates",
  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return;
    const widget = node.widgets?.find(({ name }) => name === "fps");
    if (widget) widget.options.step2 = 1;
  },
});
