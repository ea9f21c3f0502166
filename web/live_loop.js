// Whether a chunk that has ended before the next is there plays again, or holds its last frame; the host remembers it.
import { app } from "../../scripts/app.js";
import { text } from "./texts.js";

const ID = "DummyForcing.Live.Loop";
const settings = () => app.extensionManager.setting;

export const loops = () => settings().get(ID) === true;

export const toggleLoop = () => settings().set(ID, !loops());

// `changed` is called with the new value.
export const loopSetting = (changed) => ({
  id: ID,
  category: ["Dummy Forcing", "Live", "Loop"],
  name: text("loop"),
  tooltip: text("loop_tooltip"),
  type: "boolean",
  defaultValue: false, // the next chunk goes on from the last frame
  onChange: changed, // given the new value, before the host keeps it
});
