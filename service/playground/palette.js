// The colours of palette.css, by the number of a kind.

export const OWN_COLOURS = 11; // kinds with a colour of their own; all others share the next one

/** The colour of a kind, as CSS. */
export const kindColour = (kind) => `var(--c${Math.min(kind, OWN_COLOURS)})`;
