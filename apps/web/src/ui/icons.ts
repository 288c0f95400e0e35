/** Path data of the icons, drawn for strokes on a grid of 24 x 24. */

export const ICONS = {
  create: "M12 4v4M12 16v4M4 12h4M16 12h4M7 7l2 2M15 15l2 2M17 7l-2 2M9 15l-2 2",
  inside: "M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14ZM16 16l4 4M8 11h6M11 8v6",
  morph: "M4 6h5v5H4ZM15 13h5v5h-5ZM9 9c5 0 6 2 6 6",
  gallery: "M4 4h7v7H4ZM13 4h7v7h-7ZM4 13h7v7H4ZM13 13h7v7h-7Z",
  device: "M5 5h14v10H5ZM3 19h18",
  shield: "M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6ZM9 12l2 2 4-4",
  dice: "M5 5h14v14H5ZM9 9h.01M15 9h.01M12 12h.01M9 15h.01M15 15h.01",
  save: "M12 4v11M7 11l5 5 5-5M5 20h14",
  share: "M12 15V4M8 8l4-4 4 4M6 12v8h12v-8",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  again: "M5 12a7 7 0 1 1 2 5M5 20v-4h4",
  open: "M4 19V6h6l2 2h8v11Z",
  pen: "M5 19l1-4L16 5l3 3L9 18Z",
  play: "M8 5l11 7-11 7Z",
  pause: "M8 5v14M16 5v14",
  close: "M6 6l12 12M18 6L6 18",
} as const;
