/** The chart's colours, taken from the page's own so that one style sheet decides. */

export interface Palette {
  readonly text: string;
  readonly grid: string;
  readonly line: string;
  readonly label: string;
  readonly up: string;
  readonly down: string;
  readonly upVolume: string;
  readonly downVolume: string;
  readonly onPrice: string;
  readonly hollow: string; // inside of candles that went up
}

export function palette(element: HTMLElement): Palette {
  const style = getComputedStyle(element);
  const color = (name: string): string => style.getPropertyValue(name).trim() || "#808080";
  return {
    text: color("--chart-text"),
    grid: color("--chart-grid"),
    line: color("--chart-line"),
    label: color("--chart-label"),
    up: color("--up"),
    down: color("--down"),
    upVolume: color("--up-volume"),
    downVolume: color("--down-volume"),
    onPrice: color("--on-price"),
    hollow: color("--panel"),
  };
}
