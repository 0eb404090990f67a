// What it looks like. A constructed sheet, because a page may forbid every other style.

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
  :host { display: flex; flex-direction: column; position: relative; box-sizing: border-box; min-width: 0;
    height: 36rem; max-width: 100%; overflow: hidden; border: 1px solid #8883; border-radius: 8px; background: #f4f6f8;
    color: #1c2430; font: 16px/1.45 system-ui, sans-serif; color-scheme: light dark; }
  :host([hidden]), [hidden] { display: none !important; }
  /* Grows with the element: a percentage of a height that comes from flex or min-height is none. */
  iframe { display: block; flex: 1; width: 100%; height: 100%; min-height: 0; border: 0; background: #fff;
    color-scheme: normal; }
  .cover { position: absolute; inset: 0; display: grid; place-items: center; overflow: auto; background: #f4f6f8; }
  .cover.over { background: #f4f6f8e6; }
  .panel { box-sizing: border-box; width: min(30rem, 100%); padding: 1.25rem; text-align: center;
    overflow-wrap: anywhere; }
  h2 { margin: 0 0 0.5rem; font-size: 1.2rem; line-height: 1.25; }
  p { margin: 0 0 1rem; color: #4a5667; }
  button { font: inherit; min-height: 44px; padding: 0.5rem 1.1rem; border: 0; border-radius: 6px; cursor: pointer;
    color: #fff; background: #1f5fd0; }
  button:focus-visible { outline: 3px solid #7fb0ff; outline-offset: 2px; }
  .notice { position: absolute; inset: auto 0.5rem 0.5rem; display: flex; flex-wrap: wrap; gap: 0.5rem;
    align-items: center; justify-content: space-between; padding: 0.5rem 0.75rem; border-radius: 6px;
    font-size: 0.875rem; color: #fff; background: #1c2430; }
  .wheel { width: 28px; height: 28px; margin: 0 auto 0.75rem; border: 3px solid #8885; border-top-color: #1f5fd0;
    border-radius: 50%; animation: turn 1s linear infinite; }
  @keyframes turn { to { transform: rotate(360deg); } }
  @media (prefers-reduced-motion: reduce) { .wheel { animation: none; } }
  @media (prefers-color-scheme: dark) {
    :host, .cover { background: #14181e; color: #e6eaf0; }
    .cover.over { background: #14181ee6; }
    p { color: #a3aebd; }
  }
`);
