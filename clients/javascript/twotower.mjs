import "./twotower.js";

export const twotower = globalThis.twotower;
export default twotower;
