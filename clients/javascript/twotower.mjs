import "./twotower.js";

export default globalThis.twotower;
